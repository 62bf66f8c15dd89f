"""Parts of the front door benchmark."""
