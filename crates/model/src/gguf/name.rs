//! Names for people, from directory names.
