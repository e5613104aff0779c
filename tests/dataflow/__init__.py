"""What proves jobs on Dataflow without Dataflow: its API as a stub, credentials, TensorFlow's way to the bucket."""
