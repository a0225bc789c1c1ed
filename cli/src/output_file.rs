//! Result files: never overwritten, and a full disk is an error that says so.

use anyhow::{Context, Result, bail};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// How many suffixes are tried before giving up.
const MAX_SUFFIX: u32 = 10_000;

/// A file that did not exist before.
#[derive(Debug)]
pub(crate) struct OutputFile {
    path: PathBuf,
    file: File,
}

impl OutputFile {
    /// Creates `path`, or `path.0`, `path.1`, … if that is taken.
    ///
    /// Called before the work whose result goes there, so that a path that cannot be written costs
    /// nobody an hour of measurements.
    pub(crate) fn create(path: &Path) -> Result<OutputFile> {
        if let Some(opened) = try_create(path)? {
            return Ok(opened);
        }
        for suffix in 0..MAX_SUFFIX {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{suffix}"));
            if let Some(opened) = try_create(Path::new(&name))? {
                return Ok(opened);
            }
        }
        bail!("{} and {MAX_SUFFIX} numbered variants of it exist already", path.display())
    }

    /// Writes the whole content and sees it through to the disk. What could not be written in full is
    /// removed, so that nobody reads half a result.
    pub(crate) fn finish(mut self, content: &[u8]) -> Result<PathBuf> {
        let written = self.file.write_all(content).and_then(|()| match self.file.sync_all() {
            // Pipes and character devices have nothing to sync.
            Err(e) if e.kind() == ErrorKind::InvalidInput => Ok(()),
            other => other,
        });
        if let Err(error) = written {
            let _ = std::fs::remove_file(&self.path);
            let hint = match error.kind() {
                ErrorKind::StorageFull => "the disk is full",
                ErrorKind::QuotaExceeded => "the disk quota is used up",
                _ => "the result is lost",
            };
            let path = self.path.display();
            return Err(error)
                .with_context(|| format!("cannot write {} bytes to {path}: {hint}", content.len()));
        }
        Ok(self.path)
    }
}

fn try_create(path: &Path) -> Result<Option<OutputFile>> {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(file) => Ok(Some(OutputFile { path: path.to_owned(), file })),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot create {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let error = OutputFile { path: path.clone(), file: full }.finish(b"content").unwrap_err();
        assert!(format!("{error:#}").contains("the disk is full"), "{error:#}");
        assert!(!path.exists());
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = OutputFile::create(Path::new("/nonexistent/folder/out.json")).unwrap_err();
        assert!(format!("{error:#}").contains("/nonexistent/folder/out.json"));
    }
}
