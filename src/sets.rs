//! Sets of small numbers as bytes: ascending, each as the distance to the one before, in 7-bit groups (LEB128), so that
//! a set of neighbours costs a byte per number. A set close to another one is written as its difference to that.

/// A strictly ascending list as bytes.
pub fn encode(numbers: &[u32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(numbers.len() + numbers.len() / 4);
    let mut last = 0;
    for number in numbers {
        put(&mut out, number - last);
        last = *number;
    }
    out
}

/// The list that [`encode`] was given; `None` if no list was ever written like this.
pub fn decode(mut bytes: &[u8]) -> Option<Vec<u32>> {
    let mut numbers: Vec<u32> = Vec::with_capacity(bytes.len());
    while !bytes.is_empty() {
        let step = take(&mut bytes)?;
        let number = match numbers.last() {
            Some(_) if step == 0 => return None,
            Some(last) => last.checked_add(step)?,
            None => step,
        };
        numbers.push(number);
    }
    Some(numbers)
}

/// What makes `set` of `base`: the length of the encoded list of what is taken away, that list, the list of what is
/// added.
pub fn difference(base: &[u32], set: &[u32]) -> Vec<u8> {
    let without = |all: &[u32], these: &[u32]| -> Vec<u32> {
        all.iter().copied().filter(|number| these.binary_search(number).is_err()).collect()
    };
    join(&encode(&without(base, set)), &encode(&without(set, base)))
}

/// Undoes [`difference`].
pub fn apply(base: &[u32], difference: &[u8]) -> Option<Vec<u32>> {
    let (removed, mut set) = split(difference)?;
    set.extend(base.iter().filter(|number| removed.binary_search(number).is_err()));
    set.sort_unstable();
    Some(set)
}

/// The same difference between sets whose numbers are others. `rename` keeps their order, or says that there is no such
/// number any more.
pub fn rename(difference: &[u8], rename: impl Fn(u32) -> Option<u32>) -> Option<Vec<u8>> {
    let (removed, added) = split(difference)?;
    let [removed, added] =
        [removed, added].map(|list| encode(&list.into_iter().filter_map(&rename).collect::<Vec<_>>()));
    Some(join(&removed, &added))
}

fn join(removed: &[u8], added: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, removed.len() as u32);
    out.extend(removed);
    out.extend(added);
    out
}

/// What is taken away, and what is added.
fn split(mut difference: &[u8]) -> Option<(Vec<u32>, Vec<u32>)> {
    let length = take(&mut difference)? as usize;
    Some((decode(difference.get(..length)?)?, decode(&difference[length..])?))
}

fn put(out: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u32> {
    let mut number = 0u64;
    for shift in (0..35).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return number.try_into().ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let lists: [&[u32]; 5] = [&[], &[0], &[7, 8, 9, 300], &[0, 127, 128, 16_384, u32::MAX], &[u32::MAX]];
        for list in lists {
            assert_eq!(decode(&encode(list)).as_deref(), Some(list));
            for base in lists {
                assert_eq!(apply(base, &difference(base, list)).as_deref(), Some(list), "{base:?}");
            }
        }
        assert_eq!(encode(&(100..1100).collect::<Vec<_>>()).len(), 1000);
    }

    #[test]
    fn a_difference_is_renamed_as_its_sets_are() {
        let rename = |number: u32| (number != 5).then_some(number / 2);
        let renamed = |set: &[u32]| set.iter().filter_map(|number| rename(*number)).collect::<Vec<_>>();
        let sets: [&[u32]; 5] = [&[], &[0, 2, 4], &[2, 5, 8], &[5], &[4, 8, 300]];
        for base in sets {
            for set in sets {
                let difference = super::rename(&difference(base, set), rename).unwrap();
                assert_eq!(apply(&renamed(base), &difference), Some(renamed(set)), "{base:?} {set:?}");
            }
        }
        assert_eq!(super::rename(&[3, 1], rename), None);
    }

    #[test]
    fn garbage_is_refused() {
        let garbage: [&[u8]; 4] = [&[0x80], &[1, 0], &[0xff; 6], &[0xff, 0xff, 0xff, 0xff, 0x0f, 1]];
        for bytes in garbage {
            assert_eq!(decode(bytes), None, "{bytes:?}");
        }
        assert_eq!(apply(&[], &[]), None);
        assert_eq!(apply(&[], &[3, 1]), None);
    }
}
