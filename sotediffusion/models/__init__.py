"""The networks of the cascade, in plain torch: text tower, Stage C, Stage B, Stage A, EffNet, previewer, image tower."""
