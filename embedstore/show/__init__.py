"""What was found, as pictures and as pages of their own: maps, clusters, and the report on a data set."""
