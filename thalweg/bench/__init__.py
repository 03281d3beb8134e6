"""`thalweg bench`: our step beside torch's best, in turns in one process."""
