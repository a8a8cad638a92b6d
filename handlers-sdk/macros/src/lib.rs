//! The `#[handler]` attribute of the handlers SDK.

use proc_macro::TokenStream;
use proc_macro2::{Span, TokenStream as Tokens};
use quote::quote;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Error, FnArg, Ident, ItemFn, LitByteStr, LitStr, Token, bracketed, parse_macro_input};

/// Makes a handler of `async fn name(request: Request, context: Context<Params>) -> Outcome`.
///
/// The function may also return `Result<Outcome, E>` where `E: Display`. Its name in camel case is the handler's
/// default name. `#[handler(name = "other", hooks = ["response"])]` says otherwise, and which hooks it wants beside
/// the request's head: `requestBody` to look at or change the request's body, `response` to wait for the answer's head,
/// `responseBody` to look at or change the answer's body. What is not named is never shown, and costs nothing.
///
/// For WebAssembly it also emits the exports `og_alloc`, `og_init`, `og_event` and the manifest, so a crate holds one
/// handler.
#[proc_macro_attribute]
pub fn handler(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let arguments = parse_macro_input!(arguments as Arguments);
    let function = parse_macro_input!(item as ItemFn);
    expand(&arguments, &function).unwrap_or_else(Error::into_compile_error).into()
}

const HOOKS: [&str; 4] = ["request", "requestBody", "response", "responseBody"];

#[derive(Default)]
struct Arguments {
    name: Option<LitStr>,
    hooks: Vec<LitStr>,
}

impl Parse for Arguments {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let mut arguments = Self::default();
        while !input.is_empty() {
            let key: Ident = input.parse()?;
            input.parse::<Token![=]>()?;
            if key == "name" {
                arguments.name = Some(input.parse()?);
            } else if key == "hooks" {
                let list;
                bracketed!(list in input);
                arguments.hooks =
                    Punctuated::<LitStr, Token![,]>::parse_terminated(&list)?.into_iter().collect();
            } else {
                return Err(Error::new(key.span(), "a handler takes `name = \"…\"` and `hooks = [\"…\"]`"));
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(arguments)
    }
}

fn expand(arguments: &Arguments, function: &ItemFn) -> syn::Result<Tokens> {
    let context = check_signature(function)?;
    let name = handler_name(arguments, function)?;
    let manifest = manifest(arguments, &name)?;
    let (visibility, ident) = (&function.vis, &function.sig.ident);
    let inner = ItemFn { vis: syn::Visibility::Inherited, ..function.clone() };
    let exports = exports(ident, &manifest);
    Ok(quote! {
        #[doc = "A handler; the attribute made this type of the function."]
        #[allow(non_camel_case_types, dead_code)]
        #visibility struct #ident;

        impl ::handlers_sdk::Handler for #ident {
            type Params = <#context as ::handlers_sdk::__private::ContextOf>::Params;
            const NAME: &'static str = #name;
            const MANIFEST: &'static str = #manifest;

            fn run(
                request: ::handlers_sdk::Request,
                context: ::handlers_sdk::Context<Self::Params>,
            ) -> ::handlers_sdk::runtime::Run {
                #inner
                ::std::boxed::Box::pin(async move {
                    ::handlers_sdk::IntoOutcome::into_outcome(#ident(request, context).await)
                })
            }
        }

        // Natively nothing but tests calls a handler; this tells the compiler that it is used.
        const _: fn(&[u8]) -> ::core::result::Result<(), ::std::string::String> =
            ::handlers_sdk::runtime::init::<#ident>;

        #exports
    })
}

/// The context's type, where the function has the shape of a handler.
fn check_signature(function: &ItemFn) -> syn::Result<&syn::Type> {
    let signature = &function.sig;
    if signature.asyncness.is_none() {
        return Err(Error::new(signature.fn_token.span(), "a handler is an `async fn`"));
    }
    if !signature.generics.params.is_empty() {
        return Err(Error::new(signature.generics.span(), "a handler has no generic parameters"));
    }
    let arguments: Vec<&FnArg> = signature.inputs.iter().collect();
    match arguments[..] {
        [FnArg::Typed(_), FnArg::Typed(context)] => Ok(&context.ty),
        _ => Err(Error::new(
            signature.paren_token.span.join(),
            "a handler takes `(request: Request, context: Context<Params>)`",
        )),
    }
}

fn handler_name(arguments: &Arguments, function: &ItemFn) -> syn::Result<String> {
    let Some(name) = &arguments.name else { return Ok(camel_case(&function.sig.ident.to_string())) };
    let value = name.value();
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if value.is_empty() || value.len() > 128 || !value.bytes().all(plain) {
        return Err(Error::new(name.span(), "a name has 1 to 128 ASCII letters, digits, `.`, `_`, `-`"));
    }
    Ok(value)
}

/// `allow_hosts` becomes `allowHosts`: functions are Rust's, names of handlers the API's.
fn camel_case(snake: &str) -> String {
    let mut words = snake.trim_start_matches("r#").split('_').filter(|word| !word.is_empty());
    let mut name = words.next().unwrap_or_default().to_owned();
    for word in words {
        let (first, rest) = word.split_at(word.chars().next().map_or(0, char::len_utf8));
        name.push_str(&first.to_uppercase());
        name.push_str(rest);
    }
    name
}

/// The manifest. Name and hooks are plain by now, so nothing in it needs escaping.
fn manifest(arguments: &Arguments, name: &str) -> syn::Result<String> {
    let mut hooks = vec!["request".to_owned()];
    for hook in &arguments.hooks {
        let value = hook.value();
        if !HOOKS.contains(&value.as_str()) {
            return Err(Error::new(hook.span(), format!("a hook is one of {}", HOOKS.join(", "))));
        }
        if !hooks.contains(&value) {
            hooks.push(value);
        }
    }
    Ok(format!("{{\"abi\":1,\"name\":\"{name}\",\"hooks\":[\"{}\"]}}", hooks.join("\",\"")))
}

fn exports(ident: &Ident, manifest: &str) -> Tokens {
    let bytes = LitByteStr::new(manifest.as_bytes(), Span::call_site());
    let len = manifest.len();
    quote! {
        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, reason = "exports and a section of fixed names")]
        const _: () = {
            #[used]
            #[unsafe(link_section = "outgate")]
            static MANIFEST: [u8; #len] = *#bytes;

            #[unsafe(no_mangle)]
            extern "C" fn og_alloc(len: u32) -> u32 {
                ::handlers_sdk::__private::alloc(len)
            }

            #[unsafe(no_mangle)]
            extern "C" fn og_init(ptr: u32, len: u32) -> i64 {
                ::handlers_sdk::__private::init::<#ident>(ptr, len)
            }

            #[unsafe(no_mangle)]
            extern "C" fn og_event(kind: u32, ptr: u32, len: u32) -> i64 {
                ::handlers_sdk::__private::event::<#ident>(kind, ptr, len)
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_give_names_in_camel_case() {
        for (snake, camel) in [("allow_hosts", "allowHosts"), ("auth", "auth"), ("_no__http", "noHttp")] {
            assert_eq!(camel_case(snake), camel);
        }
    }

    #[test]
    fn the_manifest_names_the_wanted_hooks_once() {
        let arguments: Arguments = syn::parse_quote!(hooks = ["response", "request"]);
        let manifest = manifest(&arguments, "a").expect("a manifest");
        assert_eq!(manifest, r#"{"abi":1,"name":"a","hooks":["request","response"]}"#);
    }

    #[test]
    fn what_is_no_handler_is_refused_with_its_shape() {
        let refused =
            |function: ItemFn| expand(&Arguments::default(), &function).expect_err("refused").to_string();
        assert!(
            refused(syn::parse_quote!(
                fn a(r: Request, c: Context) -> Outcome {}
            ))
            .contains("async")
        );
        assert!(
            refused(syn::parse_quote!(
                async fn a(r: Request) -> Outcome {}
            ))
            .contains("Context<Params>")
        );
        assert!(syn::parse_str::<Arguments>("colour = \"red\"").is_err());
        let unknown: Arguments = syn::parse_quote!(hooks = ["dream"]);
        assert!(super::manifest(&unknown, "a").is_err());
    }
}
