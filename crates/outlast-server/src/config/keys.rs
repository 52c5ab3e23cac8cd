//! Keys of the queue, from a file or a setting. No message repeats what was read: it may be a key.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use outlast::options::Key;

/// No key file is longer.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// The keys in a file: one per line; empty lines and those that begin with `#` are left out.
///
/// # Errors
/// With the path and what to do: it cannot be read, others may read it, or it holds something else.
pub(super) fn read(path: &Path) -> Result<Vec<Key>, String> {
    let shown = path.display();
    let cannot = |error: std::io::Error| format!("{shown} could not be read: {error}");
    let mut file = File::open(path).map_err(cannot)?;
    // Of the file that is open: a name may mean another one a moment later.
    let mode = file.metadata().map_err(cannot)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(format!(
            "{shown} may be read by others (its mode is {:04o}): chmod 600 {shown}",
            mode & 0o7777
        ));
    }
    let mut text = String::new();
    file.by_ref().take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(cannot)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    parse(lines).map_err(|why| format!("{shown}: {why}"))
}

/// Keys in this order.
///
/// # Errors
/// When one is no key, is there twice, or there are none.
pub(super) fn parse<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Vec<Key>, String> {
    let mut keys: Vec<Key> = Vec::new();
    for (index, text) in texts.enumerate() {
        let key = text.trim().parse::<Key>().map_err(|why| format!("key {}: {why}", index + 1))?;
        if keys.contains(&key) {
            return Err(format!("key {} ({}) is there twice", index + 1, key.id()));
        }
        keys.push(key);
    }
    if keys.is_empty() {
        Err("there is no key in it; `outlast log keygen` makes one".to_owned())
    } else {
        Ok(keys)
    }
}
