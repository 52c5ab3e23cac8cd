//! Contents of records that do not compress well. `tools/peers` builds this file, too.

/// Size of each.
pub(crate) const DOCUMENT_BYTES: usize = 256;
/// Different contents; they are used in turn.
const DOCUMENTS: usize = 1024;
/// So that two runs write the same.
const SEED: u64 = 2_026;

/// All of them.
pub(crate) fn contents() -> Vec<String> {
    let mut random = fastrand::Rng::with_seed(SEED);
    (0..DOCUMENTS).map(|_| content(&mut random)).collect()
}

/// An object of [`DOCUMENT_BYTES`].
fn content(random: &mut fastrand::Rng) -> String {
    let (number, price) = (random.u32(..1_000_000), random.u32(..10_000));
    let begin = format!("{{\"number\":{number},\"price\":{price}.25,\"open\":{},\"text\":\"", random.bool());
    let end = "\"}";
    let text = (begin.len() + end.len()..DOCUMENT_BYTES).map(|_| random.alphanumeric());
    format!("{begin}{}{end}", text.collect::<String>())
}
