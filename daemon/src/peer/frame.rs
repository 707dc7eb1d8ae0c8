//! Frames on a socket. Their bytes are defined in [`messagebase_protocol::peer::frame`]; this is the reading and writing.

use std::io;

use messagebase_protocol::peer::frame::{LENGTH_BYTES, decode, encode, length};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes of frames that are written with one system call, when several wait.
pub const WRITE_COALESCE_MAX_BYTES: usize = 1024 * 1024;

/// Writes one frame and flushes it.
pub async fn write<T: Serialize>(to: &mut (impl AsyncWrite + Unpin), value: &T) -> io::Result<()> {
    to.write_all(&encode(value)?).await?;
    to.flush().await
}

/// Reads one frame of at most `limit` bytes; `None` when the other end closed between two frames.
pub async fn read<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> io::Result<Option<T>> {
    let mut prefix = [0; LENGTH_BYTES];
    let have = from.read(&mut prefix).await?;
    if have == 0 {
        return Ok(None);
    }
    from.read_exact(&mut prefix[have..]).await?;
    let mut bytes = vec![0; length(prefix, limit)?];
    from.read_exact(&mut bytes).await?;
    Ok(Some(decode(&bytes)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_back_whole_and_the_end_is_told_from_a_cut() {
        let mut bytes = Vec::new();
        write(&mut bytes, &"one".to_owned()).await.unwrap();
        write(&mut bytes, &"two".to_owned()).await.unwrap();
        let mut all = bytes.as_slice();
        assert_eq!(
            read::<String>(&mut all, 100).await.unwrap().as_deref(),
            Some("one")
        );
        assert_eq!(
            read::<String>(&mut all, 100).await.unwrap().as_deref(),
            Some("two")
        );
        assert_eq!(read::<String>(&mut all, 100).await.unwrap(), None);
        let mut cut = &bytes[..bytes.len() - 1];
        read::<String>(&mut cut, 100).await.unwrap();
        assert!(read::<String>(&mut cut, 100).await.is_err());
        let mut cut_length = &bytes[..LENGTH_BYTES - 1];
        assert!(read::<String>(&mut cut_length, 100).await.is_err());
    }

    #[tokio::test]
    async fn a_frame_over_the_limit_is_refused_before_it_is_read() {
        let mut bytes: &[u8] = &[0xff, 0xff, 0xff, 0xff];
        assert!(read::<String>(&mut bytes, 1024).await.is_err());
    }
}
