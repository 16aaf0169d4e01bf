"""Pictures as files: opened under limits, saved whole, with their settings inside."""
