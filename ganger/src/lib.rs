//! A plugin-based job runner: takes jobs from wherever they are and gets them done.
