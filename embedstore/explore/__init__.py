"""What is in the data: clusters, duplicates, outliers, wrong labels, and a map that can be read both ways."""
