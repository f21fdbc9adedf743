"""From a source to committed rows: spaces are made, items read, compared, encoded and committed."""
