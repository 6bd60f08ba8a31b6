//! Which file systems another machine serves: their locks do not tell what lives, and their syncs may not be kept.

/// By the number of statfs(2) and include/uapi/linux/magic.h. FUSE is among them: sshfs, object storage and virtual
/// machines' shares come as FUSE.
const NETWORK: [(u32, &str); 12] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB 2"),
    (0x0102_1997, "9P"),
    (0x00c3_6400, "Ceph"),
    (0x6573_5546, "FUSE"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x7461_636f, "OCFS2"),
    (0x0116_1970, "GFS2"),
    (0x0bd0_0bd0, "Lustre"),
];

/// The name of the network file system with this number (`f_type` of statfs(2)); `None` for all others.
#[must_use]
pub fn network(f_type: i64) -> Option<&'static str> {
    // The kernel's number has 32 bits; C libraries differ in its sign.
    let number = f_type & 0xffff_ffff;
    let found = NETWORK.iter().find(|(magic, _)| i64::from(*magic) == number);
    found.map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_known_whatever_its_sign() {
        assert_eq!(network(0x6969), Some("NFS"));
        assert_eq!(network(0xff53_4d42), Some("CIFS"));
        assert_eq!(network(-0xac_b2be), Some("CIFS"));
        assert_eq!(network(0x6573_5546), Some("FUSE"));
    }

    #[test]
    fn local_file_systems_are_none() {
        // ext4, XFS, Btrfs, tmpfs, overlayfs, ZFS, F2FS.
        for local in [
            0xef53,
            0x5846_5342,
            0x9123_683e,
            0x0102_1994,
            0x794c_7630,
            0x2fc1_2fc1,
            0xf2f5_2010,
        ] {
            assert_eq!(network(local), None, "{local:#x}");
        }
    }
}
