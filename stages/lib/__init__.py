"""The ideas behind the stages. Nothing here imports a stage or knows of DVC."""
