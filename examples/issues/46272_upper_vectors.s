// golang/go issue 46272: FreeBSD gave the handler's return the vector area of a 32-bit process. It
// has XMM0 to XMM7; XMM8 to XMM15 came back with whatever the handler had left in them. A program
// that zeroes memory by X15, as Go does since 1.17, then wrote rubbish.
//
// Not here: FreeBSD's own frame; Linux' frame is used, and its upper half forgotten.
//
// pushcall: go=1.17
// pushcall broken: kernel-bug=sigreturn-drops-xmm8-15 expect=lost:XMM8,XMM9,XMM10,XMM11,XMM12,XMM13,XMM14,XMM15
// pushcall mended: expect=preserved

#include "textflag.h"

GLOBL	main·zeroed(SB), NOPTR, $32

TEXT main·main(SB), NOSPLIT, $0-0
	XORPS	X15, X15	// zero by Go's register ABI
	MOVQ	$3, CX
loop:
	MOVUPS	X15, main·zeroed(SB)
	DECQ	CX
	JNE	loop
	MOVUPS	X15, main·zeroed+16(SB)
	RET
