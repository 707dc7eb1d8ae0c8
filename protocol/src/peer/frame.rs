//! Frames of the peer protocol: a big-endian `u32` length and that many bytes of postcard. Pure: the caller reads
//! [`LENGTH_BYTES`], asks [`length`] how much follows, reads that and hands it to [`decode`].

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::FRAME_MAX_BYTES;

/// Bytes of the length in front of a frame.
pub const LENGTH_BYTES: usize = 4;

/// Why bytes are not a frame, or a value does not become one.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than it may be.
    #[error("a frame of {length} bytes, {limit} allowed")]
    TooLong {
        /// Its length.
        length: usize,
        /// The greatest that is allowed here.
        limit: usize,
    },
    /// Not a value of the expected type: another version, most likely.
    #[error("a frame that does not parse: {0}")]
    Malformed(#[from] postcard::Error),
}

impl From<FrameError> for io::Error {
    fn from(e: FrameError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, e)
    }
}

/// Appends one frame to `out`. A value over [`FRAME_MAX_BYTES`] is an error that leaves `out` as it was: the other end would
/// close the connection on it.
pub fn encode_into<T: Serialize>(value: &T, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let start = out.len();
    let body = start + LENGTH_BYTES;
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    *out = postcard::to_extend(value, std::mem::take(out))?;
    let length = out.len() - body;
    if length > FRAME_MAX_BYTES {
        out.truncate(start);
        return Err(FrameError::TooLong {
            length,
            limit: FRAME_MAX_BYTES,
        });
    }
    // Proof for the cast: FRAME_MAX_BYTES is far below u32::MAX.
    out[start..body].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(())
}

/// One frame.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = Vec::new();
    encode_into(value, &mut frame)?;
    Ok(frame)
}

/// How many bytes follow. Checked before anything is allocated: the other end may be anybody.
pub fn length(prefix: [u8; LENGTH_BYTES], limit: usize) -> Result<usize, FrameError> {
    let length = u32::from_be_bytes(prefix) as usize;
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    Ok(length)
}

/// The value in the bytes behind a length.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FrameError> {
    Ok(postcard::from_bytes(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_follow_each_other_and_come_back() {
        let mut bytes = encode(&"one".to_owned()).unwrap();
        encode_into(&7_u8, &mut bytes).unwrap();
        assert_eq!(bytes, b"\0\0\0\x04\x03one\0\0\0\x01\x07");
        let length = length([0, 0, 0, 4], 4).unwrap();
        assert_eq!(decode::<String>(&bytes[4..4 + length]).unwrap(), "one");
    }

    #[test]
    fn a_length_over_the_limit_is_refused_and_so_is_a_value() {
        assert!(length([0xff; 4], 1024).is_err());
        let mut out = vec![1, 2];
        let huge = vec![0_u8; FRAME_MAX_BYTES + 1];
        assert!(matches!(
            encode_into(&huge, &mut out),
            Err(FrameError::TooLong { .. })
        ));
        assert_eq!(out, [1, 2]);
    }
}
