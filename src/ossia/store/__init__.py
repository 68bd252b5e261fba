"""Responses and conversations that outlast the process.

`store.Store` is what a server uses, `records` what it stores, `errors` what can go wrong. `tables`
is what lies in the database, `opening` and `urls` find and prepare it, `database` runs
transactions, `responses` and `conversations` say what happens in them, `owners` knows which server
works on what, `expiry` how long things are kept. `sealing` is for what clients keep themselves.
"""
