//! quern, the binary.
fn main() {}
