//! What lies in a log's folder when it is opened: segments with their headers, sidecars, spares, leftovers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::codec::{Bodies, Codec};
use crate::compressed::CompressedFile;
use crate::disk::{Disk, DiskFile};
use crate::encryption::{Cipher, Key, NoCipher};
use crate::error::OpenError;
use crate::header::{ENCRYPTED_VERSION, FORMAT_VERSION, Header, HeaderFound};
use crate::log::Recovered;
use crate::options::{Compression, Format, LogOptions};
use crate::recovery::damaged_name;
use crate::segment::{FileName, Layout};
use crate::shared::{Salts, SpareFile};
use crate::sidecar::{self, Sidecar};
use crate::{Damage, Sequence};

/// The names in `segments/`, sorted out. Nothing is changed by looking.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) segments: BTreeMap<u64, (Format, Compression)>,
    pub(crate) sidecars: BTreeSet<u64>,
    /// Prefilled files.
    pub(crate) spares: Vec<Format>,
    pub(crate) recycled: Option<PathBuf>,
    /// What a crash left half done.
    pub(crate) leftovers: Vec<PathBuf>,
    /// What is none of ours.
    pub(crate) foreign: Vec<PathBuf>,
}

impl Listing {
    pub(crate) fn read(disk: &dyn Disk, layout: &Layout) -> Result<Self, OpenError> {
        let directory = &layout.segments;
        let names = disk.list(directory).map_err(OpenError::io("list", directory))?;
        let mut listing = Self::default();
        for name in names {
            let path = directory.join(&name);
            match FileName::parse(&name) {
                FileName::Segment(number, format, compression) => {
                    match listing.segments.insert(number, (format, compression)) {
                        None => {}
                        // The power went between two steps of compressing it.
                        Some((of, other)) if of == format && other != compression => {
                            let (stays, goes) = choose(disk, layout, number, format)?;
                            listing.segments.insert(number, (format, stays));
                            listing.leftovers.push(layout.kept(number, (format, goes)));
                        }
                        Some(_) => return Err(twice(path)),
                    }
                }
                FileName::Sidecar(number) => {
                    listing.sidecars.insert(number);
                }
                FileName::Other if path == layout.recycled() => listing.recycled = Some(path),
                FileName::Other => {
                    let formats = [Format::Json, Format::Bincode];
                    let spare = formats.into_iter().find(|format| path == layout.spare(*format));
                    if let Some(format) = spare {
                        listing.spares.push(format);
                    } else if path == layout.prefilling()
                        || path == layout.compressing()
                        || name.ends_with(".index-new")
                    {
                        listing.leftovers.push(path);
                    } else {
                        listing.foreign.push(path);
                    }
                }
            }
        }
        Ok(listing)
    }

    /// Sidecars without their segment: it goes first, and a crash in between leaves them alone.
    pub(crate) fn orphans(&self) -> impl Iterator<Item = u64> {
        self.sidecars.iter().copied().filter(|number| !self.segments.contains_key(number))
    }
}

/// What lies in `segments/`, for opening.
pub(crate) struct Files {
    pub(crate) segments: BTreeMap<u64, (Format, Compression)>,
    pub(crate) spare: Option<SpareFile>,
    pub(crate) recycled: Option<PathBuf>,
    /// Greater than every number in use.
    pub(crate) next_number: u64,
}

/// A segment whose header could be read.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) header: Header,
    pub(crate) codec: Codec,
    pub(crate) path: PathBuf,
    /// Reads as the segment was written.
    pub(crate) file: Arc<dyn DiskFile>,
    /// The size of the file itself.
    pub(crate) file_bytes: u64,
    pub(crate) sidecar: Option<Sidecar>,
}

/// What the file of a segment is.
pub(crate) enum Examined {
    Segment(Box<Candidate>),
    /// The power went before it was begun: nothing in it was ever acknowledged.
    NeverBegun(PathBuf),
    /// Its header is gone, and so is its sidecar.
    Unreadable(PathBuf, Arc<dyn DiskFile>),
}

impl Files {
    /// Lists the directory, and removes what a crash left half done.
    pub(crate) fn list(disk: &dyn Disk, layout: &Layout, options: &LogOptions) -> Result<Self, OpenError> {
        let listing = Listing::read(disk, layout)?;
        let orphans: Vec<PathBuf> = listing.orphans().map(|number| layout.sidecar(number)).collect();
        let mut leftovers = listing.leftovers;
        let mut spare = None;
        for format in listing.spares {
            let path = layout.spare(format);
            if format != options.format {
                leftovers.push(path);
                continue;
            }
            let file = disk.open(&path).map_err(OpenError::io("open", &path))?;
            let bytes = file.size().map_err(OpenError::io("look at", &path))?;
            if bytes == options.segment_bytes {
                let salts = Salts::make().map_err(OpenError::io("make random numbers for", &path))?;
                spare = Some(SpareFile { file, path, bytes, salts });
            } else {
                leftovers.push(path);
            }
        }
        for path in leftovers.into_iter().chain(orphans) {
            disk.remove(&path).map_err(OpenError::io("remove", &path))?;
        }
        let next_number = listing.segments.keys().next_back().map_or(1, |last| last + 1);
        Ok(Self { segments: listing.segments, spare, recycled: listing.recycled, next_number })
    }

    /// Reads every header; sorts out files that have none.
    pub(crate) fn read_headers(
        &mut self,
        disk: &dyn Disk,
        layout: &Layout,
        keys: &[Key],
        recovered: &mut Recovered,
    ) -> Result<Vec<Candidate>, OpenError> {
        let mut candidates = Vec::new();
        let last = self.segments.keys().next_back().copied();
        for (&number, &kept) in &self.segments {
            match examine(disk, layout, number, kept, Some(number) == last, keys)? {
                Examined::Segment(candidate) => {
                    // Nothing is ever delivered that could not be read.
                    Cipher::of(&candidate.header, keys)
                        .map_err(|why| no_cipher(&candidate.path, why, keys))?;
                    candidates.push(*candidate);
                }
                Examined::NeverBegun(path) => {
                    // Gone for good before another segment begins: it must not come back as one in the middle.
                    let remove = disk.remove(&path).and_then(|()| disk.sync_directory(&layout.segments));
                    remove.map_err(OpenError::io("remove", &path))?;
                }
                Examined::Unreadable(path, file) => {
                    recovered.damage.push(set_aside(disk, layout, number, &path, &*file)?);
                }
            }
        }
        Ok(candidates)
    }
}

fn twice(path: PathBuf) -> OpenError {
    OpenError::Foreign { path, reason: "there is another segment with this number".to_owned() }
}

/// Of a segment that is there raw and compressed, what stays and what goes: the compressed file stays if every byte of it
/// is right.
fn choose(
    disk: &dyn Disk,
    layout: &Layout,
    number: u64,
    format: Format,
) -> Result<(Compression, Compression), OpenError> {
    let [path, compressed_path] =
        [Compression::None, Compression::Zstd].map(|compression| layout.kept(number, (format, compression)));
    let file = disk.open(&path).map_err(OpenError::io("open", &path))?;
    let compressed = disk.open(&compressed_path).map_err(OpenError::io("open", &compressed_path))?;
    let compressed =
        CompressedFile::open(compressed, format).map_err(OpenError::io("read", &compressed_path))?;
    let header = Header::read(&*file, format).map_err(OpenError::io("read", &path))?;
    let other = Header::read(&compressed, format).map_err(OpenError::io("read", &compressed_path))?;
    if let (HeaderFound::Good(header), HeaderFound::Good(other)) = (header, other)
        && header != other
    {
        return Err(twice(compressed_path));
    }
    let whole = compressed.is_whole().map_err(OpenError::io("read", &compressed_path))?;
    Ok(if whole { (Compression::Zstd, Compression::None) } else { (Compression::None, Compression::Zstd) })
}

/// Reads the header and the sidecar of a segment.
pub(crate) fn examine(
    disk: &dyn Disk,
    layout: &Layout,
    number: u64,
    (format, compression): (Format, Compression),
    is_last: bool,
    keys: &[Key],
) -> Result<Examined, OpenError> {
    let path = layout.kept(number, (format, compression));
    let mut file = disk.open(&path).map_err(OpenError::io("open", &path))?;
    let file_bytes = file.size().map_err(OpenError::io("look at", &path))?;
    let sidecar = sidecar::read(disk, &layout.sidecar(number));
    if compression == Compression::Zstd {
        let end = sidecar.as_ref().map_or(0, |sidecar| sidecar.end);
        let compressed = CompressedFile::open(file, format).map_err(OpenError::io("read", &path))?;
        file = Arc::new(compressed.reaching(end));
    }
    let found = Header::read(&*file, format).map_err(OpenError::io("read", &path))?;
    let header = match (found, &sidecar) {
        (HeaderFound::Good(header), _) => *header,
        (HeaderFound::OtherVersion(version), _) => {
            let reason = format!(
                "it has version {version}, this program reads {FORMAT_VERSION} and {ENCRYPTED_VERSION}; use the program that wrote it"
            );
            return Err(OpenError::Foreign { path, reason });
        }
        (_, Some(sidecar)) => sidecar.header.clone(),
        // What is compressed was sealed.
        (HeaderFound::NeverWritten, None) if is_last && compression == Compression::None => {
            return Ok(Examined::NeverBegun(path));
        }
        (_, None) => return Ok(Examined::Unreadable(path, file)),
    };
    if header.segment != number {
        let reason = format!("it is segment {} of its log", header.segment);
        return Err(OpenError::Foreign { path, reason });
    }
    let codec = match header.codec(format, keys) {
        Err(NoCipher::Missing(_)) => Codec::with(format, header.salt, Bodies::Hidden),
        codec => codec.map_err(|why| no_cipher(&path, why, keys))?,
    };
    let sidecar = sidecar.filter(|sidecar| sidecar.header == header);
    let sidecar = sidecar.and_then(|sidecar| sidecar.decrypt(&codec));
    Ok(Examined::Segment(Box::new(Candidate { header, codec, path, file, file_bytes, sidecar })))
}

/// Whether every segment can be decrypted. Reads headers and nothing else, and changes nothing; what it cannot read is
/// for others to report.
pub(crate) fn check_keys(disk: &dyn Disk, layout: &Layout, keys: &[Key]) -> Result<(), OpenError> {
    let Ok(listing) = Listing::read(disk, layout) else { return Ok(()) };
    for (&number, &(format, compression)) in &listing.segments {
        let path = layout.kept(number, (format, compression));
        let Ok(mut file) = disk.open(&path) else { continue };
        if compression == Compression::Zstd {
            let Ok(compressed) = CompressedFile::open(file, format) else { continue };
            file = Arc::new(compressed);
        }
        let header = match Header::read(&*file, format) {
            Ok(HeaderFound::Good(header)) => Some(*header),
            _ => sidecar::read(disk, &layout.sidecar(number)).map(|sidecar| sidecar.header),
        };
        if let Some(header) = header {
            Cipher::of(&header, keys).map_err(|why| no_cipher(&path, why, keys))?;
        }
    }
    Ok(())
}

pub(crate) fn no_cipher(path: &Path, why: NoCipher, keys: &[Key]) -> OpenError {
    let path = path.to_owned();
    match why {
        NoCipher::Missing(key) => {
            OpenError::KeyMissing { path, key, given: keys.iter().map(Key::id).collect() }
        }
        NoCipher::Mismatch(key) => OpenError::Foreign {
            path,
            reason: format!("its header names the key {key} and was not written with it, or was changed"),
        },
    }
}

/// Moves a file away that cannot be read without its header. Which entries it had shows in its neighbours.
pub(crate) fn set_aside(
    disk: &dyn Disk,
    layout: &Layout,
    number: u64,
    path: &Path,
    file: &dyn DiskFile,
) -> Result<Damage, OpenError> {
    let damage = unreadable(number, path, file)?;
    let move_away = || {
        disk.create_directory(&layout.damaged)?;
        disk.rename(path, &layout.damaged.join(damaged_name(&damage, path)))?;
        disk.sync_directory(&layout.damaged)?;
        disk.sync_directory(&layout.segments)
    };
    move_away().map_err(OpenError::io("move away", path))?;
    Ok(damage)
}

pub(crate) fn unreadable(number: u64, path: &Path, file: &dyn DiskFile) -> Result<Damage, OpenError> {
    let bytes = file.size().map_err(OpenError::io("look at", path))?;
    Ok(Damage { segment: number, offset: 0, bytes, after: Sequence::START, before: None, lost: None })
}
