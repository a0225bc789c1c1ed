//! What the two ends of a stream say to each other between frames.

use ronde_core::frame::HEADER_BYTES;

/// As long as a header, and unlike any.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Word {
    /// So many bytes of the stream were read.
    Receipt(u64),
    /// Nothing more comes: without it the end of a connection is a death, or a cut.
    Farewell,
}

const RECEIPT: &[u8; 8] = b"RECEIPT\0";
const FAREWELL: &[u8; 8] = b"GOODBYE\0";

impl Word {
    pub(crate) fn encode(self) -> [u8; HEADER_BYTES] {
        let (start, number) = match self {
            Word::Receipt(received) => (RECEIPT, received),
            Word::Farewell => (FAREWELL, 0),
        };
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(start);
        bytes[8..16].copy_from_slice(&number.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Word> {
        let (start, rest) = bytes.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let word = match (start, u64::from_le_bytes(*number)) {
            (RECEIPT, received) => Word::Receipt(received),
            (FAREWELL, 0) => Word::Farewell,
            _ => return None,
        };
        rest.iter().all(|byte| *byte == 0).then_some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ronde_core::frame::Header;

    #[test]
    fn words_are_no_headers_and_come_back_as_they_are() {
        for word in [Word::Receipt(0), Word::Receipt(0x0102_0304_0506_0708), Word::Farewell] {
            let bytes = word.encode();
            assert_eq!(Word::decode(&bytes), Some(word));
            assert!(Header::decode(&bytes).is_err());
            for at in [0, 7, 16, 63] {
                let mut other = bytes;
                other[at] ^= 1;
                assert_eq!(Word::decode(&other), None, "byte {at} of {word:?}");
            }
        }
        assert_eq!(Word::decode(&Header::EMPTY.encode()), None);
    }
}
