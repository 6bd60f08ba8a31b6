//! Tells a script in a container to go on.

use robata_executor_docker::DockerConfig;

use super::support;

/// The sign is the file /tmp/go.
pub(crate) async fn go(config: &DockerConfig, id: &str) {
    let mut header = [0_u8; 1536];
    header[..2].copy_from_slice(b"go");
    header[100..108].copy_from_slice(b"0000644\0");
    header[124..136].copy_from_slice(b"00000000000\0");
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    let sum: u32 = header[..512].iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let options = bollard::query_parameters::UploadToContainerOptions {
        path: "/tmp".to_owned(),
        ..Default::default()
    };
    let archive = bollard::body_full(header.to_vec().into());
    support::client(config)
        .upload_to_container(id, Some(options), archive)
        .await
        .expect("upload");
}
