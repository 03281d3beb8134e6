"""The whole protocol on made-up results, of which the truth is known: how often it says what is false."""
