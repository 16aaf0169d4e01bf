"""The mathematics of drawing: how much noise there is when, one step of a sampler, and guidance; torch and nothing of ours."""
