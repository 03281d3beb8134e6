"""How it is run: one run, the processes that train, the storage of records, the loop over both."""
