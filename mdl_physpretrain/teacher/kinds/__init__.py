"""Kinds of native teachers, one file each: every module here is looked through for them."""
