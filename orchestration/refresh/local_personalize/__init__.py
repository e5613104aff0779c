"""A stateful stand-in of Amazon Personalize for one machine: shapes from botocore's model, statuses by the clock, faults by script.

core.LocalPersonalize is the service, server.Server speaks its wire protocol to boto3, client.Client is a boto3-like object without HTTP.
"""
