"""Headers that Go's runtime sources include, with the names that assembly uses of them.

Numbers: cmd/internal/obj/textflag.go, internal/abi (symtab.go, funcdata), by Go version.
go_asm.h is the caller's: the compiler makes it from a package's structs and constants.
"""

from __future__ import annotations

from asm.image import TextFlag

# The experiments that a version's baseline has switched on for amd64 (internal/buildcfg/exp.go)
# and that assembly tells apart; cmd/asm defines GOEXPERIMENT_… for each.
_EXPERIMENTS = {
    (1, 17): ("regabiwrappers", "regabig", "regabireflect", "regabidefer", "regabiargs"),
    (1, 18): ("regabiwrappers", "regabireflect", "regabiargs"),
}


def experiments(go: tuple[int, int]) -> tuple[str, ...]:
    """The macros of a version's experiments."""
    if go < (1, 17):
        return ()
    names = _EXPERIMENTS.get(go, ("regabiwrappers", "regabiargs"))
    return tuple(f"GOEXPERIMENT_{name}" for name in names)


def textflag_h() -> str:
    """The flags of TEXT and GLOBL."""
    return "".join(f"#define {f.name} {f.value}\n" for f in TextFlag if f.value)


def funcdata_h(go: tuple[int, int]) -> str:
    """The numbers of the PCDATA and FUNCDATA tables and the macros over them."""
    pcdata = ["UnsafePoint", "StackMapIndex", "InlTreeIndex", "ArgLiveIndex", "PanicBounds"]
    funcdata = [
        "ArgsPointerMaps", "LocalsPointerMaps", "StackObjects", "InlTree", "OpenCodedDeferInfo",
        "ArgInfo", "ArgLiveInfo", "WrapInfo",
    ]  # fmt: skip
    if go <= (1, 15):
        # The register maps had a table of their own; table 0 of PCDATA was theirs.
        funcdata.insert(2, "RegPointerMaps")
        pcdata[0] = "RegMapIndex"
    text = "".join(f"#define PCDATA_{name} {n}\n" for n, name in enumerate(pcdata))
    text += "".join(f"#define FUNCDATA_{name} {n}\n" for n, name in enumerate(funcdata))
    return text + (
        "#define GO_ARGS FUNCDATA $FUNCDATA_ArgsPointerMaps, go_args_stackmap(SB)\n"
        "#define GO_RESULTS_INITIALIZED PCDATA $PCDATA_StackMapIndex, $1\n"
        "#define NO_LOCAL_POINTERS FUNCDATA $FUNCDATA_LocalsPointerMaps, no_pointers_stackmap(SB)\n"
        "#define ArgsSizeUnknown 0x80000000\n"
    )


GO_TLS_H = """\
#ifdef GOARCH_amd64
#define get_tls(r) MOVQ TLS, r
#define g(r) 0(r)(TLS*1)
#endif
"""

ASM_AMD64_H = """\
#ifdef GOAMD64_v2
#define hasPOPCNT
#define hasSSE42
#endif
#ifdef GOAMD64_v3
#define hasAVX
#define hasAVX2
#define hasPOPCNT
#define hasSSE42
#endif
#ifdef GOAMD64_v4
#define hasAVX
#define hasAVX2
#define hasAVX512F
#define hasAVX512BW
#define hasAVX512VL
#define hasPOPCNT
#define hasSSE42
#endif
"""


def headers(go: tuple[int, int]) -> dict[str, str]:
    """The headers that come with the assembler, by the name in #include."""
    return {
        "textflag.h": textflag_h(),
        "funcdata.h": funcdata_h(go),
        "go_tls.h": GO_TLS_H,
        "asm_amd64.h": ASM_AMD64_H,
    }
