//! Writes a tar archive: a few files and links for an image, in the form that POSIX calls ustar.

/// An archive that is being written.
#[derive(Debug, Default)]
pub(crate) struct Tar {
    bytes: Vec<u8>,
}

const BLOCK: usize = 512;

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn folder(&mut self, name: &str) {
        self.header(&format!("{name}/"), b'5', 0, "");
    }

    /// A program or library.
    pub(crate) fn file(&mut self, name: &str, data: &[u8]) {
        self.header(name, b'0', data.len(), "");
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    pub(crate) fn link(&mut self, name: &str, target: &str) {
        self.header(name, b'2', 0, target);
    }

    /// The archive whole: two empty blocks end it.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }

    fn header(&mut self, name: &str, kind: u8, size: usize, target: &str) {
        let mut block = [0_u8; BLOCK];
        let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
        // Names of our few files are far shorter than the 100 bytes that fit.
        put(0, &name.as_bytes()[..name.len().min(100)]);
        put(100, b"0000755\0");
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{size:011o}\0").as_bytes());
        put(136, b"00000000000\0");
        put(148, b"        ");
        put(156, &[kind]);
        put(157, &target.as_bytes()[..target.len().min(100)]);
        put(257, b"ustar\x0000");
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&block);
    }

    fn pad(&mut self) {
        let full = self.bytes.len().div_ceil(BLOCK) * BLOCK;
        self.bytes.resize(full, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn the_systems_own_tar_reads_it() {
        let mut tar = Tar::new();
        tar.folder("bin");
        tar.file("bin/tool", b"data");
        tar.link("bin/sh", "tool");
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new("tar")
            .args(["-x", "-f", "-", "-C"])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&tar.finish()).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(std::fs::read(folder.path().join("bin/sh")).unwrap(), b"data");
    }
}
