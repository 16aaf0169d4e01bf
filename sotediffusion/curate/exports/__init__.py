"""A catalogue in the forms that trainers read: kohya's folders, Hugging Face's Parquet, WebDataset's tars."""
