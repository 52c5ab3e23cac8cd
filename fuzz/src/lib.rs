//! What the fuzz targets share.

#[path = "../../crates/outlast-testkit/src/disk/mod.rs"]
pub mod disk;
pub mod sample;
