//! The two messages of etcd's protocol that a put needs, and gRPC's frame around them, written out by hand: a code
//! generator and its runtime would be most of what `mbctl` is made of.

/// gRPC's prefix of a message: not compressed, and its length.
const PREFIX_BYTES: usize = 5;
/// `PutRequest.key`, a length-delimited field.
const KEY_TAG: u8 = (1 << 3) | 2;
/// `PutRequest.value`.
const VALUE_TAG: u8 = (2 << 3) | 2;
/// `PutResponse.header`.
const HEADER_TAG: u64 = (1 << 3) | 2;
/// `ResponseHeader.revision`, a number.
const REVISION_TAG: u64 = 3 << 3;

/// A framed `etcdserverpb.PutRequest`.
pub(super) fn put(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(PREFIX_BYTES + key.len() + value.len() + 16);
    message.extend_from_slice(&[0; PREFIX_BYTES]);
    for (tag, bytes) in [(KEY_TAG, key), (VALUE_TAG, value)] {
        message.push(tag);
        write_varint(&mut message, bytes.len() as u64);
        message.extend_from_slice(bytes);
    }
    // Keys and values of a benchmark are far below 4 GiB.
    let length = u32::try_from(message.len() - PREFIX_BYTES).unwrap_or(u32::MAX);
    message[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    message
}

/// The revision in a framed `etcdserverpb.PutResponse`.
pub(super) fn revision(frame: &[u8]) -> Option<u64> {
    let mut response = Fields(frame.get(PREFIX_BYTES..)?);
    while let Some((tag, value)) = response.next() {
        if let (HEADER_TAG, Value::Bytes(header)) = (tag, value) {
            let mut header = Fields(header);
            while let Some((tag, value)) = header.next() {
                if let (REVISION_TAG, Value::Number(revision)) = (tag, value) {
                    return Some(revision);
                }
            }
        }
    }
    None
}

fn write_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Fields of a message, one after another; ends at what it doesn't know.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                Value::Bytes(bytes)
            }
            _ => return None,
        };
        Some((tag, value))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_has_the_bytes_that_etcd_reads() {
        assert_eq!(
            put(b"k", b"vv"),
            [0, 0, 0, 0, 7, 0x0a, 1, b'k', 0x12, 2, b'v', b'v']
        );
        let long = put(b"k", &[7; 300]);
        assert_eq!(
            long[8..11],
            [0x12, 0xac, 0x02],
            "a length over 127 takes two bytes"
        );
    }

    #[test]
    fn the_revision_is_found_behind_other_fields_and_nonsense_has_none() {
        // cluster_id 300, member_id 1, revision 5, raft_term 2
        let header = [0x08, 0xac, 0x02, 0x10, 1, 0x18, 5, 0x20, 2];
        let mut frame = vec![0, 0, 0, 0, 11, 0x0a, 9];
        frame.extend_from_slice(&header);
        assert_eq!(revision(&frame), Some(5));
        assert_eq!(revision(&frame[..10]), None);
        assert_eq!(revision(&[0; 3]), None);
    }
}
