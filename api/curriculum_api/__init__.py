"""The words that the operator, the trainer and the command line share. Pydantic only."""
