//! Frames: a big-endian `u32` length and that many bytes of postcard.

use std::io;

use messagebase_protocol::peer::FRAME_MAX_BYTES;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of the length in front of a frame.
const LENGTH_BYTES: usize = 4;

/// Appends one frame to `out`. A value over [`FRAME_MAX_BYTES`] is an error: the other end would hang up on it.
pub fn encode_into<T: Serialize>(value: &T, out: &mut Vec<u8>) -> io::Result<()> {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    let taken = std::mem::take(out);
    *out = postcard::to_extend(value, taken).map_err(io::Error::other)?;
    let length = out.len() - start - LENGTH_BYTES;
    if length > FRAME_MAX_BYTES {
        out.truncate(start);
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes is over the limit"),
        ));
    }
    // Proof for the cast: FRAME_MAX_BYTES is far below u32::MAX.
    out[start..start + LENGTH_BYTES].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(())
}

/// Reads one frame of at most `limit` bytes; `None` when the other end closed in order between two frames.
pub async fn read<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> io::Result<Option<T>> {
    let mut length = [0; LENGTH_BYTES];
    let mut have = 0;
    while have < LENGTH_BYTES {
        let read = from.read(&mut length[have..]).await?;
        if read == 0 {
            return if have == 0 {
                Ok(None)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
        have += read;
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes, {limit} allowed"),
        ));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).await?;
    postcard::from_bytes(&bytes).map(Some).map_err(|e| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame that does not parse: {e}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_back_whole_and_the_end_is_told_from_a_cut() {
        let mut bytes = Vec::new();
        encode_into(&"one".to_owned(), &mut bytes).unwrap();
        encode_into(&"two".to_owned(), &mut bytes).unwrap();
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
    }

    #[tokio::test]
    async fn a_frame_over_the_limit_is_refused_before_it_is_read() {
        let mut bytes: &[u8] = &[0xff, 0xff, 0xff, 0xff];
        assert!(read::<String>(&mut bytes, 1024).await.is_err());
    }
}
