//! Says that the crate depends on its migrations: they are compiled in.

fn main() {
    println!("cargo::rerun-if-changed=migrations");
    println!("cargo::rerun-if-changed=next");
}
