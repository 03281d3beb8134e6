"""What may be said: the statistics of the records, the verdict, and the words for both."""
