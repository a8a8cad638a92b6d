//! Peers that mean harm and speak HTTP/2: each attack ends with a refusal of its own name or harms its own requests
//! alone, others are served meanwhile and afterwards, and nothing of it stays in memory or among the descriptors.

mod floods;
mod heads;
mod ground;
mod slow;
mod upstreams;
mod windows;
