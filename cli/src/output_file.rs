//! Result files: never overwritten, and a full disk is an error that says so. What is no file, such as a pipe or a terminal, is
//! written to as it is.

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

/// How many suffixes are tried before giving up.
const MAX_SUFFIX: u32 = 10_000;

/// Where a result goes: a file that did not exist before, or what exists and is no file.
#[derive(Debug)]
pub(crate) struct OutputFile {
    /// Its name or, while it has none, the one that was asked for.
    path: PathBuf,
    file: File,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// It has no name until it is complete, so that nothing is left of a process that ends before.
    Unnamed,
    /// Where the file system cannot do that.
    Named,
    /// A pipe, a device, or what this process has open already.
    Stream,
}

impl OutputFile {
    /// Creates a file that becomes `path`, or `path.0`, `path.1`, … if that is taken by a file.
    ///
    /// Called before the work whose result goes there, so that a path that cannot be written costs
    /// nobody an hour of measurements.
    pub(crate) fn create(path: &Path) -> Result<OutputFile> {
        if let Some(opened) = stream(path) {
            let file = opened.with_context(|| format!("cannot open {}", path.display()))?;
            return Ok(OutputFile { path: path.to_owned(), file, kind: Kind::Stream });
        }
        match unnamed(path) {
            Ok(file) => Ok(OutputFile { path: path.to_owned(), file, kind: Kind::Unnamed }),
            // Such as a network's.
            Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
                let open = |path: &Path| OpenOptions::new().write(true).create_new(true).open(path);
                let (path, file) = first_free(path, open)?;
                Ok(OutputFile { path, file, kind: Kind::Named })
            }
            Err(error) => Err(error).with_context(|| format!("cannot create {}", path.display())),
        }
    }

    /// Writes the whole content, sees it through to the disk, and gives the file its name. What could not be written in full
    /// is removed, so that nobody reads half a result.
    pub(crate) fn finish(mut self, content: &[u8]) -> Result<PathBuf> {
        let written = self.file.write_all(content).and_then(|()| match self.kind {
            // Pipes and devices have nothing to sync.
            Kind::Stream => Ok(()),
            Kind::Unnamed | Kind::Named => self.file.sync_all(),
        });
        if let Err(error) = written {
            if self.kind == Kind::Named {
                let _ = std::fs::remove_file(&self.path);
            }
            let hint = match error.kind() {
                ErrorKind::StorageFull => "the disk is full",
                ErrorKind::QuotaExceeded => "the disk quota is used up",
                _ => "the result is lost",
            };
            let path = self.path.display();
            return Err(error)
                .with_context(|| format!("cannot write {} bytes to {path}: {hint}", content.len()));
        }
        if self.kind != Kind::Unnamed {
            return Ok(self.path);
        }
        let descriptor = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let link = |path: &Path| {
            linkat(CWD, &descriptor, CWD, path, AtFlags::SYMLINK_FOLLOW).map_err(io::Error::from)
        };
        first_free(&self.path, link).map(|(path, ())| path)
    }
}

/// What exists at `path` and is no file, opened. Standard output and errors are taken as they are: opened anew, a file that they
/// go to would be written from its start.
fn stream(path: &Path) -> Option<io::Result<File>> {
    let own = |number| ["/dev/fd", "/proc/self/fd"].iter().any(|fd| path == Path::new(fd).join(number));
    let cloned = if path == Path::new("/dev/stdout") || own("1") {
        io::stdout().as_fd().try_clone_to_owned()
    } else if path == Path::new("/dev/stderr") || own("2") {
        io::stderr().as_fd().try_clone_to_owned()
    } else {
        let kind = std::fs::metadata(path).ok()?.file_type();
        let is_stream = !kind.is_file() && !kind.is_dir();
        return is_stream.then(|| OpenOptions::new().write(true).open(path));
    };
    Some(cloned.map(File::from))
}

/// A new file without a name in the folder of `path`.
fn unnamed(path: &Path) -> rustix::io::Result<File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mode = Mode::from_raw_mode(0o666);
    openat(CWD, folder, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, mode).map(File::from)
}

/// Makes something at `path` or, where that is taken, at the first of its numbered variants that is free.
fn first_free<T>(path: &Path, make: impl Fn(&Path) -> io::Result<T>) -> Result<(PathBuf, T)> {
    let variant = |suffix: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{suffix}"));
        PathBuf::from(name)
    };
    for candidate in std::iter::once(path.to_owned()).chain((0..MAX_SUFFIX).map(variant)) {
        match make(&candidate) {
            Ok(made) => return Ok((candidate, made)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot create {}", candidate.display()));
            }
        }
    }
    bail!("{} and {MAX_SUFFIX} numbered variants of it exist already", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::FileType;

    #[test]
    fn an_existing_file_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.json");
        for (content, name) in [("a", "out.json"), ("b", "out.json.0"), ("c", "out.json.1")] {
            let written = OutputFile::create(&path).unwrap().finish(content.as_bytes()).unwrap();
            assert_eq!(written, folder.path().join(name));
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a");
    }

    #[test]
    fn a_full_disk_is_named_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.json");
        std::fs::write(&path, "").unwrap();
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let error =
            OutputFile { path: path.clone(), file: full, kind: Kind::Named }.finish(b"content").unwrap_err();
        assert!(format!("{error:#}").contains("the disk is full"), "{error:#}");
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_file_is_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let reader = std::thread::spawn({
            let path = path.clone();
            move || std::fs::read_to_string(path).unwrap()
        });
        assert_eq!(OutputFile::create(&path).unwrap().finish(b"content").unwrap(), path);
        assert_eq!(reader.join().unwrap(), "content");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let full = OutputFile::create(Path::new("/dev/full")).unwrap();
        assert!(full.finish(b"content").is_err() && Path::new("/dev/full").exists());
        OutputFile::create(Path::new("/dev/null")).unwrap().finish(b"content").unwrap();
        assert!(!Path::new("/dev/null.0").exists());
    }

    #[test]
    fn a_link_to_a_file_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("out.json"), folder.path().join("link.json"));
        std::fs::write(&path, "a").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        OutputFile::create(&link).unwrap().finish(b"b").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a");
        assert_eq!(std::fs::read_to_string(folder.path().join("link.json.0")).unwrap(), "b");
    }

    #[test]
    fn nothing_is_left_of_what_was_not_finished() {
        let folder = tempfile::tempdir().unwrap();
        drop(OutputFile::create(&folder.path().join("out.json")).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = OutputFile::create(Path::new("/nonexistent/folder/out.json")).unwrap_err();
        assert!(format!("{error:#}").contains("/nonexistent/folder/out.json"));
    }
}
