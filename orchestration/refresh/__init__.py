"""The personalization refresh: data import -> retraining -> campaign update, each step gated on the last.

record.py     what the ledger knows of one refresh (campaign, base_date), and of a campaign as a whole
actions.py    what may be seen of a refresh, and what may be done
machine.py    what to do next, as a pure function of a record, an observation and the time; campaign_change.py its last steps
worker.py     observes, asks the machine, writes the ledger, acts
reopen.py     what a person asks of a refresh that has ended; reconcile.py what came to pass beside the ledger
ledger.py     where records live, changed by compare-and-set only (SQLite, DynamoDB)
service.py    what a campaign's service must be able to do (Amazon Personalize)
"""
