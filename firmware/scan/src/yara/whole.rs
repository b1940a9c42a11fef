//! Which rules need whole objects, and which match as well in windows that overlap.
//!
//! A match in windows is a match in the whole, and the other way round, if the pattern is no longer than
//! the overlap and nothing around it counts; then a condition that asks only whether patterns match has
//! the same answer. Whatever else a rule asks for (sizes, places, counts, modules, regular expressions,
//! of which the longest match is not known here) needs the whole. In doubt the answer is that it does:
//! that costs memory, and no detection.

use yara_x_parser::ast::{
    AST, Expr, HexSubPattern, HexToken, Item, OfItems, Pattern, PatternModifier, Quantifier, Rule,
};

use crate::analysis::OVERLAP_BYTES;

/// Why the rules of a file need whole objects, if they do: the first of them, and what in it.
pub(super) fn because((origin, text): (&str, &str)) -> Option<String> {
    let ast = AST::from(text);
    if !ast.errors().is_empty() {
        return Some(format!("{origin}: not understood"));
    }
    ast.items().find_map(|item| match item {
        Item::Import(import) => Some(format!("{origin}: import \"{}\"", import.module_name)),
        Item::Include(_) => Some(format!("{origin}: include")),
        Item::Rule(rule) => {
            of_rule(rule).map(|what| format!("{origin}: rule {}: {what}", rule.identifier.name))
        }
    })
}

fn of_rule(rule: &Rule<'_>) -> Option<&'static str> {
    let patterns = rule.patterns.as_deref().unwrap_or_default();
    patterns.iter().find_map(of_pattern).or_else(|| of_condition(&rule.condition))
}

fn of_pattern(pattern: &Pattern<'_>) -> Option<&'static str> {
    let mut bytes_of_letter = 1;
    for modifier in pattern.modifiers().iter() {
        match modifier {
            PatternModifier::Wide { .. } => bytes_of_letter = 2,
            PatternModifier::Ascii { .. }
            | PatternModifier::Nocase { .. }
            | PatternModifier::Private { .. }
            | PatternModifier::Xor { .. } => {}
            PatternModifier::Fullword { .. } => return Some("fullword"),
            PatternModifier::Base64 { .. } | PatternModifier::Base64Wide { .. } => {
                return Some("base64");
            }
        }
    }
    let bytes_max = match pattern {
        Pattern::Text(text) => text.text.value.len().checked_mul(bytes_of_letter),
        Pattern::Hex(hex) => longest(&hex.sub_patterns),
        Pattern::Regexp(_) => return Some("a regular expression"),
    };
    bytes_max.is_none_or(|bytes| bytes > OVERLAP_BYTES).then_some("a long pattern")
}

/// Bytes of the longest match; `None` where there is no longest.
fn longest(pattern: &HexSubPattern) -> Option<usize> {
    pattern.iter().try_fold(0_usize, |sum, token| {
        let bytes = match token {
            HexToken::Byte(_) | HexToken::NotByte(_) => 1,
            HexToken::Alternative(either) => either
                .alternatives
                .iter()
                .map(longest)
                .try_fold(0, |most, one| Some(one?.max(most)))?,
            HexToken::Jump(jump) => usize::try_from(jump.end?).ok()?,
        };
        sum.checked_add(bytes)
    })
}

/// Only whether patterns match may be asked, and other rules.
fn of_condition(condition: &Expr<'_>) -> Option<&'static str> {
    match condition {
        Expr::True { .. } | Expr::False { .. } | Expr::Ident(_) => None,
        Expr::PatternMatch(found) => found.anchor.is_some().then_some("the place of a match"),
        Expr::Not(inner) => of_condition(&inner.operand),
        Expr::And(all) | Expr::Or(all) => all.operands().find_map(of_condition),
        Expr::Of(of) if of.anchor.is_some() => Some("the place of a match"),
        Expr::Of(of) => of_quantifier(&of.quantifier).or_else(|| match &of.items {
            OfItems::PatternSet(_) => None,
            OfItems::BoolExprTuple(all) => all.iter().find_map(of_condition),
        }),
        Expr::ForOf(each) => of_quantifier(&each.quantifier).or_else(|| of_condition(&each.body)),
        Expr::Filesize { .. } => Some("filesize"),
        Expr::Entrypoint { .. } => Some("entrypoint"),
        _ => Some("its condition asks for more than matches"),
    }
}

fn of_quantifier(quantifier: &Quantifier<'_>) -> Option<&'static str> {
    match quantifier {
        Quantifier::None { .. } | Quantifier::All { .. } | Quantifier::Any { .. } => None,
        Quantifier::Percentage(Expr::LiteralInteger(_))
        | Quantifier::Expr(Expr::LiteralInteger(_)) => None,
        Quantifier::Percentage(_) | Quantifier::Expr(_) => Some("a number that is computed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<String> {
        // What the compiler refuses is no case.
        yara_x::compile(text).unwrap();
        because(("a.yar", text))
    }

    fn rule(strings: &str, condition: &str) -> String {
        format!("rule x {{ strings: {strings} condition: {condition} }}")
    }

    #[test]
    fn the_embedded_rules_match_in_windows() {
        for file in super::super::EMBEDDED {
            assert_eq!(because(*file), None);
        }
    }

    #[test]
    fn rules_that_ask_only_whether_patterns_match_do_so_in_windows() {
        let long = "x".repeat(OVERLAP_BYTES / 2);
        for (strings, condition) in [
            ("$a = \"cat\" nocase", "$a"),
            ("$a = \"cat\" xor private", "not $a"),
            (&format!("$a = \"{long}\" wide ascii"), "$a"),
            ("$a = { 01 ~02 ?3 [2-4000] (05 | 06 07 [1] 08) }", "$a"),
            ("$a = \"one\" $b = \"two\"", "$a and not ($b or false)"),
            ("$a = \"one\" $b = \"two\"", "any of them"),
            ("$a = \"one\" $b = \"two\"", "2 of ($a, $b*)"),
            ("$a = \"one\" $b = \"two\"", "50% of them"),
            ("$a = \"one\" $b = \"two\"", "1 of ($a and $b, $b)"),
            ("$a = \"one\" $b = \"two\"", "for all of them : ( not $ )"),
        ] {
            assert_eq!(of(&rule(strings, condition)), None, "{condition}");
        }
        let two = "private rule a { condition: true } rule b { condition: a and not a }";
        assert_eq!(of(two), None);
    }

    #[test]
    fn whatever_else_a_rule_asks_for_needs_the_whole() {
        let long = "x".repeat(OVERLAP_BYTES + 1);
        let wide = "x".repeat(OVERLAP_BYTES / 2 + 1);
        for (strings, condition, what) in [
            ("$a = \"cat\"", "$a and filesize < 10KB", "asks for more"),
            ("$a = \"cat\"", "$a at 0", "place"),
            ("$a = \"cat\"", "$a in (0..10)", "place"),
            ("$a = \"cat\"", "any of them at 0", "place"),
            ("$a = \"cat\"", "any of them in (0..10)", "place"),
            ("$a = \"cat\"", "#a > 2", "asks for more"),
            ("$a = \"cat\"", "@a[1] > 2", "asks for more"),
            ("$a = \"cat\"", "!a[1] > 2", "asks for more"),
            ("$a = \"cat\"", "$a and uint16(0) == 0x5a4d", "asks for more"),
            ("$a = \"cat\"", "for any i in (1..3) : ( @a[i] == 7 )", "asks for more"),
            ("$a = \"cat\"", "for any of them : ( # > 2 )", "asks for more"),
            ("$a = \"cat\"", "(filesize - 1) of them", "computed"),
            ("$a = \"cat\"", "with x = filesize : ( $a and x > 1 )", "asks for more"),
            ("$a = \"cat\"", "$a and defined filesize", "asks for more"),
            ("$a = \"cat\" fullword", "$a", "fullword"),
            ("$a = \"cat\" base64", "$a", "base64"),
            ("$a = \"cat\" base64wide", "$a", "base64"),
            ("$a = /cat/", "$a", "regular expression"),
            ("$a = { 01 02 [10-] 03 04 }", "$a", "long"),
            ("$a = { 01 02 [-] 03 04 }", "$a", "long"),
            ("$a = { 01 02 [0-4096] 03 04 }", "$a", "long"),
            ("$a = { 01 02 (03 | 04 [5000] 05) 06 07 }", "$a", "long"),
            (&format!("$a = \"{long}\""), "$a", "long"),
            (&format!("$a = \"{wide}\" wide"), "$a", "long"),
        ] {
            let why = of(&rule(strings, condition)).unwrap_or_else(|| panic!("{condition}"));
            assert!(why.starts_with("a.yar: rule x: ") && why.contains(what), "{condition}: {why}");
        }
        // This program has no modules; a compiler that had would see them.
        let import = because(("a.yar", "import \"math\" rule x { condition: true }"));
        assert!(import.unwrap().contains("math"));
        assert!(because(("a.yar", "rule {")).is_some());
    }
}
