//! Packs contents into messages: many small ones into one, a large one into parts. A message costs MPI and both sides
//! far more than a header's bytes, and the first compile on a host needs some 150 headers. Knows no ranks.

use crate::wire::{self, Digest, PAYLOAD_BYTES_MAX, ToRank};
use std::io;

/// Contents that are to become one message.
#[derive(Default)]
pub struct Batch {
    digests: Vec<Digest>,
    payload: Vec<u8>,
}

impl Batch {
    /// Bytes of the contents that are not in a message yet.
    pub fn bytes(&self) -> usize {
        self.payload.len()
    }

    /// Takes a content; the messages that are complete by now.
    ///
    /// # Errors
    /// As [`wire::message`].
    pub fn add(&mut self, digest: Digest, content: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        if content.len() > PAYLOAD_BYTES_MAX {
            return parts(digest, content);
        }
        let full = self.payload.len() + content.len() > PAYLOAD_BYTES_MAX;
        let messages = if full { self.finish()? } else { Vec::new() };
        self.digests.push(digest);
        self.payload.extend_from_slice(content);
        Ok(messages)
    }

    /// The last message, if any.
    ///
    /// # Errors
    /// As [`wire::message`].
    pub fn finish(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let Batch { digests, payload } = std::mem::take(self);
        if digests.is_empty() {
            return Ok(Vec::new());
        }
        Ok(vec![wire::message(&ToRank::Blobs { digests }, &payload)?])
    }
}

fn parts(digest: Digest, content: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let part = |(index, part): (usize, &[u8])| {
        wire::message(&ToRank::Blob { digest, at: (index * PAYLOAD_BYTES_MAX) as u64 }, part)
    };
    content.chunks(PAYLOAD_BYTES_MAX).enumerate().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a rank makes of the messages: (digest, position, content).
    fn unpack(messages: &[Vec<u8>]) -> Vec<(Digest, u64, Vec<u8>)> {
        let mut found = Vec::new();
        for message in messages {
            let (head, mut payload) = wire::take_message(message).unwrap();
            assert!(payload.len() <= PAYLOAD_BYTES_MAX);
            match head {
                ToRank::Blob { digest, at } => found.push((digest, at, payload.to_vec())),
                ToRank::Blobs { digests } => {
                    for digest in digests {
                        let (content, rest) = payload.split_at(digest.bytes as usize);
                        found.push((digest, 0, content.to_vec()));
                        payload = rest;
                    }
                    assert!(payload.is_empty());
                }
                other => panic!("{other:?}"),
            }
        }
        found
    }

    fn pack(contents: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut batch = Batch::default();
        let mut messages = Vec::new();
        for content in contents {
            messages.extend(batch.add(Digest::of(content), content).unwrap());
        }
        messages.extend(batch.finish().unwrap());
        messages
    }

    #[test]
    fn headers_travel_together() {
        let contents: Vec<Vec<u8>> = (0..150u8).map(|number| vec![number; usize::from(number)]).collect();
        let messages = pack(&contents);
        assert_eq!(messages.len(), 1);
        let expected: Vec<_> = contents.iter().map(|content| (Digest::of(content), 0, content.clone())).collect();
        assert_eq!(unpack(&messages), expected);
        assert!(pack(&[]).is_empty());
    }

    #[test]
    fn no_message_exceeds_the_limit() {
        let (half, large) = (vec![1; PAYLOAD_BYTES_MAX / 2 + 1], vec![2; 2 * PAYLOAD_BYTES_MAX + 1]);
        let messages = pack(&[half.clone(), half.clone(), large.clone(), vec![3; PAYLOAD_BYTES_MAX]]);
        let found = unpack(&messages);
        let of_large = |(digest, ..): &&(Digest, u64, Vec<u8>)| *digest == Digest::of(&large);
        let parts: Vec<_> = found.iter().filter(of_large).map(|(_, at, part)| (*at, part.len())).collect();
        let limit = PAYLOAD_BYTES_MAX as u64;
        assert_eq!(parts, [(0, PAYLOAD_BYTES_MAX), (limit, PAYLOAD_BYTES_MAX), (2 * limit, 1)]);
        assert_eq!(found.len(), 3 + parts.len());
        assert_eq!(messages.len(), 3 + parts.len(), "two halves are too large for one message");
    }
}
