//! The program: command line in, exit status out.

fn main() {}
