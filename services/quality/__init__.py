"""Whether a picture is fit to be compared: measured where it is decoded, judged against its camera's own recent pictures."""
