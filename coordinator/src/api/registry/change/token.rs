//! Check of a device token: the text that an app gets from its platform becomes the token's bytes.
//!
//! The bytes are the canonical form: two spellings of one token have the same bytes. No error shows
//! any part of the token.

use bytes::Bytes;
use clarion_proto::{
    app::Platform,
    device::{Token, check_fcm_token},
    error::InvalidField,
};
use data_encoding::HEXLOWER_PERMISSIVE;

/// Longest APNs token, hexadecimal digits.
const TOKEN_DIGITS_MAX: usize = 200;

/// Checks the text of a token: hexadecimal digits of any case for APNs, plain text for FCM.
pub(super) fn token(text: String, platform: Platform) -> Result<Token, InvalidField> {
    if text.is_empty() {
        return Err(InvalidField::new("token", "is required"));
    }
    match platform {
        Platform::Apns => apns_token(&text),
        Platform::Fcm => {
            check_fcm_token(text.as_bytes())?;
            Token::new(Bytes::from(text))
        }
    }
}

fn apns_token(hex: &str) -> Result<Token, InvalidField> {
    if hex.len() > TOKEN_DIGITS_MAX {
        return Err(InvalidField::new(
            "token",
            format_args!("must be at most {TOKEN_DIGITS_MAX} digits; got {}", hex.len()),
        ));
    }
    // The decoder's words would show a digit of the token.
    let bytes = HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).map_err(|_| {
        InvalidField::new(
            "token",
            format_args!("must be pairs of hexadecimal digits; got {} characters", hex.len()),
        )
    })?;
    Token::new(Bytes::from(bytes))
}
