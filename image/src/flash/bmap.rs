//! The map of an image: which of its blocks have to be written, and their checksums (bmap-tools, 2.0).

use crate::ImageError;
use crate::debian::sha256;

/// Largest map that is read, in bytes: ours have some hundreds.
pub const MAP_BYTES_MAX: u64 = 1024 * 1024;
/// Most ranges of it.
const RANGES_MAX: usize = 4096;
/// Largest block that makes sense, in bytes.
const BLOCK_BYTES_MAX: u64 = 1024 * 1024;

/// A map that has been checked: its ranges are in order and within the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    /// Size of the whole image.
    pub image_bytes: u64,
    /// What has to be written.
    pub ranges: Vec<Range>,
}

/// A part of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// Where it begins, in bytes.
    pub start: u64,
    /// How long it is, in bytes.
    pub bytes: u64,
    /// Of its contents, in hexadecimal.
    pub sha256: String,
}

impl Map {
    /// Reads a map.
    ///
    /// # Errors
    /// It is damaged, or none.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        Self::read(text).map_err(|problem| {
            ImageError::Wrong(format!(
                "the image's map is damaged: {problem}; build or fetch it anew"
            ))
        })
    }

    fn read(text: &str) -> Result<Self, String> {
        let own = element(text, "BmapFileChecksum")?;
        // The map's own checksum is of itself with zeros in its place.
        if own.len() != 64 || sha256(text.replacen(own, &"0".repeat(64), 1).as_bytes()) != own {
            return Err("its checksum is wrong".to_owned());
        }
        if element(text, "ChecksumType")? != "sha256" {
            return Err("its checksums are not SHA-256".to_owned());
        }
        let image_bytes = number(element(text, "ImageSize")?)?;
        let block = number(element(text, "BlockSize")?)?;
        if !(512..=BLOCK_BYTES_MAX).contains(&block) || !image_bytes.is_multiple_of(block) {
            return Err(format!("blocks of {block} bytes"));
        }
        let mut ranges: Vec<Range> = Vec::new();
        for piece in text.split("<Range ").skip(1) {
            let (sum, blocks) = piece
                .strip_prefix("chksum=\"")
                .and_then(|rest| rest.split_once("\">"))
                .and_then(|(sum, rest)| Some((sum, rest.split_once("</Range>")?.0.trim())))
                .ok_or("a range without checksum")?;
            let (first, last) = blocks.split_once('-').unwrap_or((blocks, blocks));
            let (first, last) = (number(first)?, number(last)?);
            let end = last.checked_add(1).and_then(|end| end.checked_mul(block));
            let end = end.filter(|&end| first <= last && end <= image_bytes);
            let end = end.ok_or_else(|| format!("blocks {blocks} are not in the image"))?;
            let start = first * block;
            if ranges.last().is_some_and(|before| before.start + before.bytes > start) {
                return Err(format!("blocks {blocks} are out of order"));
            }
            if ranges.len() == RANGES_MAX {
                return Err(format!("more than {RANGES_MAX} ranges"));
            }
            ranges.push(Range { start, bytes: end - start, sha256: sum.to_owned() });
        }
        if ranges.is_empty() {
            return Err("nothing is to be written".to_owned());
        }
        Ok(Self { image_bytes, ranges })
    }

    /// How much has to be written, in bytes.
    #[must_use]
    pub fn mapped_bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.bytes).sum()
    }
}

fn element<'a>(text: &'a str, name: &str) -> Result<&'a str, String> {
    text.split_once(&format!("<{name}>"))
        .and_then(|(_, rest)| rest.split_once(&format!("</{name}>")))
        .map(|(inside, _)| inside.trim())
        .ok_or_else(|| format!("it has no {name}"))
}

fn number(text: &str) -> Result<u64, String> {
    text.trim().parse().map_err(|_| format!("{:?} is no number", text.escape_debug().to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A map with its checksum set right.
    fn sealed(ranges: &str) -> String {
        let with = |own: &str| {
            format!(
                "<bmap version=\"2.0\"><ImageSize> 40960 </ImageSize><BlockSize> 4096 </BlockSize>\
                 <ChecksumType> sha256 </ChecksumType><BmapFileChecksum> {own} </BmapFileChecksum>\
                 <BlockMap>{ranges}</BlockMap></bmap>"
            )
        };
        with(&sha256(with(&"0".repeat(64)).as_bytes()))
    }

    #[test]
    fn ranges_are_bytes_of_the_image() {
        let map = Map::parse(&sealed(
            "<Range chksum=\"aa\">0-1</Range>\n<Range chksum=\"bb\"> 9 </Range>",
        ))
        .unwrap();
        let places: Vec<_> = map.ranges.iter().map(|range| (range.start, range.bytes)).collect();
        assert_eq!(places, [(0, 8192), (36_864, 4096)]);
        assert_eq!((map.image_bytes, map.mapped_bytes()), (40_960, 12_288));
    }

    #[test]
    fn what_is_damaged_is_not_used() {
        let range = |blocks: &str| format!("<Range chksum=\"aa\">{blocks}</Range>");
        let complaint = |text: &str| Map::parse(text).unwrap_err().to_string();
        for (blocks, expected) in
            [("0-10", "not in the image"), ("3-2", "not in the image"), ("x", "is no number")]
        {
            let said = complaint(&sealed(&range(blocks)));
            assert!(said.contains(expected), "{said}");
        }
        let twice = sealed(&(range("0-3") + &range("3-4")));
        assert!(complaint(&twice).contains("blocks 3-4 are out of order"));
        assert!(complaint(&sealed("")).contains("nothing is to be written"));
        let changed = sealed(&range("0-3")).replacen("40960", "81920", 1);
        assert!(complaint(&changed).contains("its checksum is wrong"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(?s).{0,200}", ranges in "[<>Range chksum=\"0-9/]{0,80}") {
            let _ = Map::parse(&text);
            let _ = Map::parse(&sealed(&ranges));
        }
    }
}
