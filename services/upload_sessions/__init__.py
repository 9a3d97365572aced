"""Direct uploads: clients PUT to the staging area, then have the file checked and stored."""
