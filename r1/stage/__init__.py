"""Training stages as LightningModules: one file per option, base.py for what they share."""
