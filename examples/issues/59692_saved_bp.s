// golang/go issue 59692: systemstack left BP wrong, and whoever unwinds by the chain of saved BPs
// went astray. Here main counts the frames of the chain behind a switch to g0 and back, with a
// preemption at every boundary: its own, and the zero that ends it. A function on g0 may leave any BP
// behind; systemstack has to bring back the goroutine's, from g.sched.
//
// pushcall: go=1.22 entry=main·main every=1
// pushcall broken: define=BP_LEFT expect=dies:SIGSEGV
// pushcall mended: expect=RAX:2

#include "textflag.h"
#include "go_asm.h"
#include "go_tls.h"
#include "funcdata.h"

// AX = how many frames the chain of saved BPs has.
TEXT main·main(SB), 0, $16-0
	CALL	main·onSystemStack(SB)
	CALL	main·depth(SB)
	RET

TEXT main·depth(SB), NOSPLIT, $8-0
	XORL	AX, AX
	MOVQ	BP, CX
frame:
	INCQ	AX
	MOVQ	(CX), CX
	TESTQ	CX, CX
	JNE	frame
	RET

// systemstack of a function that is at hand; g.sched keeps SP and BP meanwhile.
TEXT main·onSystemStack(SB), NOSPLIT|NOFRAME, $0-0
	PCDATA	$0, $-2
	get_tls(CX)
	MOVQ	g(CX), AX
	MOVQ	g_m(AX), BX
	MOVQ	m_g0(BX), DX
	MOVQ	SP, (g_sched+gobuf_sp)(AX)
	MOVQ	BP, (g_sched+gobuf_bp)(AX)
	MOVQ	DX, g(CX)
	MOVQ	(g_sched+gobuf_sp)(DX), SP
	MOVQ	$0x1234, BP	// the function on g0
	MOVQ	AX, g(CX)
	MOVQ	(g_sched+gobuf_sp)(AX), SP
#ifndef BP_LEFT
	MOVQ	(g_sched+gobuf_bp)(AX), BP
#endif
	MOVQ	AX, R14
	RET
