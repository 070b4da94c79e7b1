// Switching between goroutines and stacks: gogo, mcall, systemstack, morestack, goexit, mstart.
// What each one must do: runtime/asm_amd64.s of every Go version, runtime/stubs.go (contracts of
// mcall and systemstack), cmd/compile/abi-internal.md. One text serves all versions: up to 1.16
// arguments lie on the stack and g is found through TLS; from 1.17 on R14 is g, X15 is zero and
// the first argument is in AX. Functions are NOFRAME, so that 0(SP) is the return address and BP
// is still the caller's.

#include "go_asm.h"
#include "go_tls.h"
#include "textflag.h"

// m0's start: RSP is g0's stack, DI = &m0.tls[1] (where FS is to point), R13 = m0, R14 = g0.
TEXT runtime·rt0_go(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	PUSHQ	DI
	CALL	runtime·settls(SB)
	POPQ	DI
	get_tls(CX)
	MOVQ	R14, g(CX)
	MOVQ	R13, g_m(R14)
	MOVQ	R14, m_g0(R13)
	CALL	runtime·gettid_raw(SB)
	MOVQ	AX, m_procid(R13)
	CALL	runtime·schedinit(SB)
	CALL	runtime·mstart(SB)
	UNDEF

// The first function of every M, on its g0.
TEXT runtime·mstart(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	XORL	BP, BP	// the root frame: frame-pointer unwinding ends here
	PUSHQ	BP
	MOVQ	SP, BP
	CALL	runtime·mstart1(SB)	// ends in schedule, or in sysmon; on m0, AX = sysmon's M
	PUSHQ	AX
yield:
	CALL	runtime·osyield(SB)
	MOVQ	0(SP), AX
	CMPQ	m_procid(AX), $0
	JEQ	yield	// until sysmon's thread runs
	CALL	runtime·mstart2(SB)
	UNDEF

// func gogo(buf *gobuf): buf.g goes on at buf.pc with buf.sp, buf.bp and buf.ctxt.
TEXT runtime·gogo(SB), NOSPLIT|NOFRAME, $0-8
	MOVQ	8(SP), BX
	MOVQ	gobuf_g(BX), R14
	MOVQ	0(R14), AX	// faults here, not later, if g is nil
	get_tls(CX)
	MOVQ	R14, g(CX)
	XORPS	X15, X15
	MOVQ	gobuf_sp(BX), SP
	MOVQ	gobuf_bp(BX), BP
	MOVQ	gobuf_ctxt(BX), DX
	XORL	AX, AX	// what gobuf holds is cleared: it may keep garbage alive
	MOVQ	AX, gobuf_sp(BX)
	MOVQ	AX, gobuf_bp(BX)
	MOVQ	AX, gobuf_ctxt(BX)
	MOVQ	gobuf_pc(BX), BX
	JMP	BX

// func mcall(fn func(*g)): saves the caller in g.sched and calls fn(g) on m.g0's stack.
// fn does not return; gogo(&g.sched) returns from mcall, on this or another M.
TEXT runtime·mcall<ABIInternal>(SB), NOSPLIT|NOFRAME, $0-8
#ifdef go1_17
	MOVQ	AX, DX
#else
	MOVQ	8(SP), DX
	get_tls(CX)
	MOVQ	g(CX), R14
#endif
	MOVQ	0(SP), BX
	MOVQ	BX, (g_sched+gobuf_pc)(R14)
	LEAQ	8(SP), BX
	MOVQ	BX, (g_sched+gobuf_sp)(R14)
	MOVQ	BP, (g_sched+gobuf_bp)(R14)
	MOVQ	R14, (g_sched+gobuf_g)(R14)
	MOVQ	g_m(R14), BX
	MOVQ	m_g0(BX), SI
	CMPQ	SI, R14
	JEQ	bad	// on g0 already
	MOVQ	R14, AX
	MOVQ	SI, R14
	get_tls(CX)
	MOVQ	R14, g(CX)
	MOVQ	(g_sched+gobuf_sp)(R14), SP
	XORL	BP, BP	// the caller may go on on another M: nothing here leads back to it
	PUSHQ	AX	// the argument, or its spill slot
	CALL	0(DX)
bad:
	UNDEF

// func systemstack(fn func()): runs fn on m.g0's stack and returns; at once where it is that one
// already, or gsignal's.
TEXT runtime·systemstack(SB), NOSPLIT|NOFRAME, $0-8
	MOVQ	8(SP), DX
	get_tls(CX)
	MOVQ	g(CX), AX
	MOVQ	g_m(AX), BX
	CMPQ	AX, m_gsignal(BX)
	JEQ	here
	MOVQ	m_g0(BX), SI
	CMPQ	AX, SI
	JEQ	here
	CMPQ	AX, m_curg(BX)
	JNE	bad
	// g.sched leads to systemstack_switch, which stands for this frame in a walk of the stack.
	MOVQ	$runtime·systemstack_switch(SB), DI
	MOVQ	DI, (g_sched+gobuf_pc)(AX)
	MOVQ	SP, (g_sched+gobuf_sp)(AX)
	MOVQ	BP, (g_sched+gobuf_bp)(AX)	// BP stays, too: unwinding goes on through it
	MOVQ	SI, g(CX)
	MOVQ	SI, R14
	MOVQ	(g_sched+gobuf_sp)(SI), SP
	CALL	0(DX)
	get_tls(CX)
	MOVQ	g(CX), AX
	MOVQ	g_m(AX), BX
	MOVQ	m_curg(BX), AX
	MOVQ	AX, g(CX)
	MOVQ	AX, R14
	MOVQ	(g_sched+gobuf_sp)(AX), SP
	MOVQ	(g_sched+gobuf_bp)(AX), BP
	XORL	DI, DI
	MOVQ	DI, (g_sched+gobuf_sp)(AX)
	MOVQ	DI, (g_sched+gobuf_bp)(AX)
	RET
here:
	JMP	0(DX)
bad:
	UNDEF

// Never executed: a PC in g.sched while the goroutine waits for systemstack's function.
TEXT runtime·systemstack_switch(SB), NOSPLIT|NOFRAME, $0-0
	UNDEF

// Called by a function f whose prologue found too little stack, before f has a frame.
// g.sched = f's entry (f restarts), m.morebuf = f's caller; newstack goes on on g0.
TEXT runtime·morestack(SB), NOSPLIT|NOFRAME, $0-0
	get_tls(CX)
	MOVQ	g(CX), DI
	MOVQ	g_m(DI), BX
	CMPQ	DI, m_g0(BX)
	JEQ	bad
	CMPQ	DI, m_gsignal(BX)
	JEQ	bad
	MOVQ	0(SP), AX	// f, behind its call of morestack: a jump to its start
	MOVQ	AX, (g_sched+gobuf_pc)(DI)
	LEAQ	8(SP), AX
	MOVQ	AX, (g_sched+gobuf_sp)(DI)
	MOVQ	BP, (g_sched+gobuf_bp)(DI)
	MOVQ	DX, (g_sched+gobuf_ctxt)(DI)
	MOVQ	DI, (g_sched+gobuf_g)(DI)
	MOVQ	8(SP), AX
	MOVQ	AX, (m_morebuf+gobuf_pc)(BX)
	LEAQ	16(SP), AX
	MOVQ	AX, (m_morebuf+gobuf_sp)(BX)
	MOVQ	DI, (m_morebuf+gobuf_g)(BX)
	MOVQ	m_g0(BX), R14
	MOVQ	R14, g(CX)
	MOVQ	(g_sched+gobuf_sp)(R14), SP
	XORL	BP, BP
	CALL	runtime·newstack(SB)	// does not return
bad:
	UNDEF

// morestack for a function without a closure context.
TEXT runtime·morestack_noctxt(SB), NOSPLIT|NOFRAME, $0-0
	XORL	DX, DX
	JMP	runtime·morestack(SB)

// Where a goroutine's first function returns to: its stack starts as if goexit had called it,
// which is why the return address is goexit+1, behind the NOP.
TEXT runtime·goexit(SB), NOSPLIT|NOFRAME|TOPFRAME, $0-0
	BYTE	$0x90
	CALL	runtime·goexit1(SB)	// does not return
	BYTE	$0x90
