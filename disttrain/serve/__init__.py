"""A model behind HTTP: the API, the page, and what keeps both up while models and processes change."""
