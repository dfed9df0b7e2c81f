//! `Debug` of messages with secrets, which shows no secret.

use std::fmt;

use crate::wire::shard_v1::{ProviderToken, ProxyAddress};

impl fmt::Debug for ProviderToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderToken").field("lane", &self.lane).finish_non_exhaustive()
    }
}

impl fmt::Debug for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyAddress").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::shard_v1::{Lane, LaneProxy, lane_proxy::Proxy};

    #[test]
    fn no_secret_is_shown() {
        let authorization = "secret".to_owned();
        let token = ProviderToken { lane: 7, authorization: authorization.clone(), signer: 1 };
        assert_eq!(format!("{token:?}"), "ProviderToken { lane: 7, .. }");
        let address = ProxyAddress { endpoint: "proxy:3128".to_owned(), authorization };
        let proxy = Some(LaneProxy { proxy: Some(Proxy::Address(address)) });
        let shown = format!("{:?}", Lane { proxy, ..Lane::default() });
        assert!(shown.contains("proxy:3128") && !shown.contains("secret"), "{shown}");
    }
}
