//! Chance, and the tags, names and picture addresses that come from it. Everything follows from the seed.

use std::collections::HashSet;

use crate::model::Tag;

/// A die of its own for each thing, so that one more throw for one does not change all others.
pub(super) fn die(seed: u64, what: u64) -> fastrand::Rng {
    // SplitMix64's finish: neighbouring seeds must not give related throws.
    let mut mixed = seed ^ what.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    fastrand::Rng::with_seed(mixed ^ (mixed >> 31))
}

/// Picks from a table that is not empty.
pub(super) fn pick<T: Copy>(random: &mut fastrand::Rng, table: &[T]) -> T {
    table[random.usize(..table.len())]
}

/// A tag of the usual length, without `#`.
pub(super) fn tag(random: &mut fastrand::Rng) -> Tag {
    // Most tags have eight or nine digits.
    let length = random.usize(8..=9);
    let letters = (0..length).map(|_| char::from(pick(random, b"0289PYLQGRJCUV")));
    Tag::normalise(&letters.collect::<String>()).expect("it is made of the letters of tags")
}

/// Gives out each tag once.
#[derive(Debug, Default)]
pub(super) struct TagOffice {
    given: HashSet<Tag>,
}

impl TagOffice {
    pub(super) fn give(&mut self, random: &mut fastrand::Rng) -> Tag {
        loop {
            let tag = tag(random);
            // Two throws may give the same tag.
            if self.given.insert(tag.clone()) {
                return tag;
            }
        }
    }
}

/// An address of a picture, as the service's assets have them.
pub(super) fn asset(group: &str, size: u32, picture: u64) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut random = die(picture, 77);
    let mut address = format!("https://api-assets.clashofclans.com/{group}/{size}/");
    // The recorded addresses have names of 43 letters.
    let length = address.len() + 43;
    while address.len() < length {
        // Ten letters a throw: a clan's document has some four hundred of these names.
        let throw = random.u64(..);
        let letters = (0..10).map(|letter| char::from(LETTERS[(throw >> (6 * letter) & 63) as usize]));
        address.extend(letters.take(length - address.len()));
    }
    address + ".png"
}

/// The names of players: plain, decorated, and in scripts that break programs.
const PLAYERS: &[&str] = &[
    "Ava",
    "Bolt",
    "Captain Hook",
    "Dmitri",
    "Emre",
    "Falcon",
    "Grim",
    "Håkon",
    "Iris",
    "Jörg",
    "Kai",
    "Léa",
    "Mateo",
    "Nora",
    "Ömer",
    "Pax",
    "Quinn",
    "Rafa",
    "Søren",
    "Tariq",
    "Uma",
    "Viktor",
    "Wren",
    "Xia",
    "Yara",
    "Zoë",
    "★ Storm ★",
    "ⓁⓊⓃⒶ",
    "꧁Dragon꧂",
    "ᴹᴿ ғᴏx",
    "🔥Blaze🔥",
    "👨‍👩‍👧 family",
    "⚔️ rook ⚔️",
    "♛ŘËX♛",
    "Иван",
    "Ночной волк",
    "Κώστας",
    "محمد",
    "سارة",
    "علی رضا",
    "דוד",
    "नेहा",
    "สมชาย",
    "さくら",
    "ドラゴン",
    "龙王",
    "小明",
    "김민준",
    "Trần Văn",
    "Łukasz",
    "Ğöktürk",
    "x\"quote\"x",
    "back\\slash",
    "<b>bold</b>",
    "O'Neil; --",
    "a\u{200b}b",
    "é e\u{301}",
    "12345",
    "   spaced",
    "%23#tag",
    "null",
    "1e9",
];

const CLANS: &[&str] = &[
    "Iron Wolves",
    "Night Raiders",
    "Les Gaulois",
    "Die Burg",
    "Los Reyes",
    "Brat za Brata",
    "Nordlys",
    "United Kings",
    "★ Valhalla ★",
    "Русский дух",
    "Братство",
    "ペガサス",
    "龍之家",
    "화랑",
    "صقور العرب",
    "ایران",
    "भारत योद्धा",
    "Việt Nam",
    "Türk Gücü",
    "Polska Husaria",
    "🛡️ Guardians",
    "ᗰᗩᖴIᗩ",
    "꧁༒Kings༒꧂",
    "War & Peace",
    "the \"best\"",
    "C:\\clan",
    "Ñandú",
    "Ελλάδα",
    "ไทยแลนด์",
    "1 2 3",
];

const DESCRIPTIONS: &[&str] = &[
    "",
    "War every other day, both attacks or out.",
    "🛡️ Come for the Capital, stay for the camaraderie.\nBe kind.",
    "Семейный клан. Без оскорблений! 18+",
    "日本人クラン。まったり。",
    "عشيرة عربية، الحرب مهمة",
    "Rules:\n1) donate\t2) attack\n3) \"have fun\" \\o/",
];

pub(super) fn player_name(random: &mut fastrand::Rng) -> String {
    let name = pick(random, PLAYERS);
    if random.u8(..3) == 0 { format!("{name}{}", random.u32(1..100)) } else { name.to_owned() }
}

pub(super) fn clan_name(random: &mut fastrand::Rng) -> String {
    let name = pick(random, CLANS);
    if random.u8(..3) == 0 { format!("{name} {}", random.u32(2..30)) } else { name.to_owned() }
}

pub(super) fn description(random: &mut fastrand::Rng) -> &'static str {
    pick(random, DESCRIPTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_follows_seed() {
        let thrown = |seed, what| tag(&mut die(seed, what));
        assert_eq!(thrown(1, 2), thrown(1, 2));
        assert_ne!(thrown(1, 2), thrown(2, 2));
        assert_ne!(thrown(1, 2), thrown(1, 3));
    }

    #[test]
    fn tags_are_unique() {
        let mut office = TagOffice::default();
        let mut random = die(1, 1);
        let tags: HashSet<Tag> = (0..10_000).map(|_| office.give(&mut random)).collect();
        assert_eq!(tags.len(), 10_000);
    }

    #[test]
    fn picture_addresses_match_recordings() {
        let recorded = "https://api-assets.clashofclans.com/badges/70/cb35er-1CKwudTNmkp737CfBAqjKDCmDnKWuUGVZLzo.png";
        assert_eq!(asset("badges", 70, 5).len(), recorded.len());
    }
}
