"""What `feast apply` registers in the root: its activity.yaml with models/catalog.py."""

from feature_repo.workspace import attributes
from transformations.config import load_config

globals().update(attributes(load_config()))
